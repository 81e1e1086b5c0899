
e1abc{}