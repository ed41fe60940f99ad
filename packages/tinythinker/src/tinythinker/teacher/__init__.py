"""Teacher data: how a teacher is asked, what it says, and how its replies are kept and read."""
