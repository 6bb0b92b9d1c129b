"""What codecs share between frames: prediction from earlier ones, the packed transform, symbols and their chances."""
