"""Pictures in and out: a portrait as pixels, marks and captioned sheets. Imports no torch."""
