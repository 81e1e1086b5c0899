j
{"a":1}room.publish