"""What Babelrack does, shown."""
