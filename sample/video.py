"""Prompts to mp4: python sample/video.py "a red ball bounces on grass" --seed 3"""

import sys

from t2v.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
