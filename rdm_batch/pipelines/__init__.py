"""Ray flows and actors: generate, evaluate, build a database. The only home of ray."""
