"""Numbers: fusion metrics, overlap of segments, and how sure they are."""
