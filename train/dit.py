"""Train the video transformer: python train/dit.py --config configs/train/tiny.yaml steps=100"""

import sys

from t2v.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
