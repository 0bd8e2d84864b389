"""When two models differ: where it begins (bisect), on how little it shows (reduce), what `apply` leaves (failure).

stepping -> levels -> bisect -> cutter -> reduce
stepping       plays one graph node by node, in little memory
levels         two graphs side by side, and the way into If, Loop and Scan bodies
bisect         the first tensor that differs; divergence: what is told of it
breaks         whether a pass breaks a model, and how
cutter         pieces of a model with the values that go into them
reduce         the smallest piece that a pass breaks; reproduction: the folder for a bug report
failure        the graphs around a pass that failed its check in `apply`
"""
