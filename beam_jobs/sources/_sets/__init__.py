"""Files that other tools have written: TFRecords, tars, the folders of TFDS and of `datasets`."""
