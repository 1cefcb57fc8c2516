"""Pictures of a run, as the bytes of a PNG file. The one package that knows matplotlib, which is imported where it draws."""
