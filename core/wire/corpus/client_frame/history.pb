R
room:18BEH