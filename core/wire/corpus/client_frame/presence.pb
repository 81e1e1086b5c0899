B
room:1