"""Pictures to look at: labelled sheets, turntables, a viewer in one HTML page."""
