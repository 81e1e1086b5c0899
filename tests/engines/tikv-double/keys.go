package main

import "github.com/tikv/client-go/v2/util/codec"

// encode makes of a client's key what regions and PD know it by; the order of keys stays. No key stays
// none, which is the beginning or the end of all.
func encode(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return codec.EncodeBytes(nil, key)
}

// decode undoes encode; the bounds of regions are all encoded keys.
func decode(encoded []byte) []byte {
	if len(encoded) == 0 {
		return nil
	}
	_, key, err := codec.DecodeBytes(encoded, nil)
	if err != nil {
		panic(err)
	}
	return key
}
