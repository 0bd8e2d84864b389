"""What is to be done, as a YAML file says it: recipe -> frozen Recipe, every refusal with file and line.

schema           every key of a recipe, explained; all of the following go by it
layers           one recipe laid over another, and --set over both
plugin_options   the options of a pass or a compiler, held against its fields
target           the section `target`
load             all of it together
json_schema      the schema as editors read it
page             the schema as docs/recipes.md shows it
"""
