"""Settings, shared sections of a recipe, and the run folder. Import the modules; nothing is loaded here."""
