"""Audio in, words out: audio files, segments of long recordings, transcripts and their formats."""
