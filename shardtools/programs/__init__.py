"""What each program does, as a function: the same names and defaults as on the command line.

    arguments of Python, or of a command -> options, checked -> a plan -> jobs -> a result

Both wings meet here: `shardtools` shows these functions to Python users, and the commands of ``cli/`` call what they
are made of. What may be repeated on the command line is a list or a mapping with a plural name here: ``-f cls -f txt``
is ``fields=["cls", "txt"]``, ``-a size=256`` is ``params={"size": 256}``. Errors name options as on the command line.
"""
