"
T{}"js#*
room:12E8HPXbfossilp*

room:2p