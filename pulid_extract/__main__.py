"""python -m pulid_extract"""

from pulid_extract.cli import main

if __name__ == "__main__":
    main()
