"""Pictures in files: reading, writing, and what the formats can hold."""
