"""What one person starts on one machine: the command line, the demo, the simulation. Imports all; imported by none."""
