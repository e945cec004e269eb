"""Audio in, words out: files, segments of long recordings, and what was said when."""
