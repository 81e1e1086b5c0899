
not2idgt"0