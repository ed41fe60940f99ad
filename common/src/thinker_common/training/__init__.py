"""Settings, run folders, checkpoints, and trainers that resume exactly. Import the modules; nothing is loaded here."""
