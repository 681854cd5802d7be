"""From results on disk to tables and a page; never computes a figure."""
