"""What every party holds in common. Imports no other folder of this project."""
