"""COCO 2017 as it unpacks: data_root/annotations, data_root/train2017, data_root/val2017."""

data_root = "data/coco"
train = dict(ann_file="annotations/instances_train2017.json", image_dir="train2017")
val = dict(ann_file="annotations/instances_val2017.json", image_dir="val2017")
short_side = 800
long_side = 1333
drop_bad_objects = True  # train2017 holds a few boxes without area
keep_empty = False  # the published results were trained without images that have no object
