"""python -m pulid_generate"""

from pulid_generate.cli import main

if __name__ == "__main__":
    main()
