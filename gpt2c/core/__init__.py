"""The engine, the loaded model over it, and what every module above shares."""
