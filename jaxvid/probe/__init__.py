"""What features of a frozen encoder are good for: probes, neighbours, retrieval and clusters.

python -m jaxvid.probe --config=configs/zoo_row.py:name=NAME,data_dir=DIR,init=DIR --workdir=...
"""
