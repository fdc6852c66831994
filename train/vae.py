"""Train the video autoencoder: python train/vae.py --config configs/train-vae/tiny.yaml"""

import sys

from t2v.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-vae", *sys.argv[1:]]))
