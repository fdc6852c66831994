"""Fine-tune a saved pipeline: python train/finetune.py --config configs/finetune/lora.yaml"""

import sys

from t2v.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
