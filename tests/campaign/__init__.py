"""Kill processes of real jobs at random moments, resume, and compare what comes of it."""
