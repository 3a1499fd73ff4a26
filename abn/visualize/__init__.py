"""Pictures and pages for people: overlays, the gallery, the report."""
