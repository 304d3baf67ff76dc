"""The kit every Kinora service is built on. It holds no word of the business."""
