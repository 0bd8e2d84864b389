"""Videos and cameras, read and written by PyAV, which the extra `video` brings.

frame     a picture of a video, its number and its time
pyav      the library, or what to install
source    what a user names: a file, or a camera as this system calls it
decoded   a picture as pixels: upright, RGB
file      the frames of a file, and how many are lost in it
losses    how many frames a damaged file has lost
camera    the newest frame of a camera; what nobody was ready for is dropped
writer    pictures with their times, into a file that players take
"""
