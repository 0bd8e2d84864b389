"""What is to be done, as a YAML file says it: recipe -> frozen Recipe, every refusal with file and line.

yaml_positions   YAML with the place of each value; the traps of YAML closed
layers           one recipe laid over another, and --set over both
validate         keys, types and the options of a pass, held against their schema
load             all of it together, and every key explained
"""
