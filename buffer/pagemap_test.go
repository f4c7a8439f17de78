package buffer

import (
	"encoding/binary"
	"testing"
)

// pageMap says for one meta page of a segment which pages must be whole for
// each block to be found from there: the meta page, the branches, and the
// leaves that hold its pieces.
type pageMap struct {
	meta   uint64
	blocks map[uint64]map[uint64]bool // by first seq
}

// mapPages reads the bytes of a closed segment, for each of its two meta
// pages, the newer first. It knows bbolt's format by itself.
func mapPages(t testing.TB, p []byte) []pageMap {
	t.Helper()
	ne := binary.NativeEndian
	order := []uint64{0, 1}
	if ne.Uint64(p[pageBytes+64:]) > ne.Uint64(p[64:]) {
		order = []uint64{1, 0}
	}
	var out []pageMap
	for _, id := range order {
		m := pageMap{meta: id, blocks: map[uint64]map[uint64]bool{}}
		m.walk(p, ne.Uint64(p[id*pageBytes+32:]), []uint64{id})
		out = append(out, m)
	}
	return out
}

// walk follows a page; path are the pages above it.
func (m *pageMap) walk(p []byte, id uint64, path []uint64) {
	ne := binary.NativeEndian
	if (id+1)*pageBytes > uint64(len(p)) { // of an older commit, cut off or never written
		return
	}
	page := p[id*pageBytes : (id+1)*pageBytes]
	path = append(path[:len(path):len(path)], id)
	count := int(ne.Uint16(page[10:]))
	if ne.Uint16(page[8:]) == pageBranch {
		for e := range count {
			m.walk(p, ne.Uint64(page[pageHeader+e*elementSize+8:]), path)
		}
		return
	}
	m.leaf(p, page, path)
}

// leaf takes the items of a leaf, also of one within an item.
func (m *pageMap) leaf(p, page []byte, path []uint64) {
	ne := binary.NativeEndian
	for e := range int(ne.Uint16(page[10:])) {
		el := page[pageHeader+e*elementSize:]
		k := pageHeader + e*elementSize + int(ne.Uint32(el[4:]))
		v := k + int(ne.Uint32(el[8:]))
		key, value := page[k:v], page[v:v+int(ne.Uint32(el[12:]))]
		switch first, _, ok := splitKey(key); {
		case ne.Uint32(el) == 1 && ne.Uint64(value) != 0:
			m.walk(p, ne.Uint64(value), path)
		case ne.Uint32(el) == 1:
			m.leaf(p, value[16:], path)
		case ok && string(key) != keyGeneration:
			if m.blocks[first] == nil {
				m.blocks[first] = map[uint64]bool{}
			}
			for _, id := range path {
				m.blocks[first][id] = true
			}
		}
	}
}

// whole returns the first seqs of the blocks that must be found when the pages
// in harmed are not what they were: those of the newer meta page that is whole.
func whole(maps []pageMap, harmed map[uint64]bool) map[uint64]bool {
	out := map[uint64]bool{}
	for _, m := range maps {
		if harmed[m.meta] {
			continue
		}
		for first, pages := range m.blocks {
			ok := true
			for id := range pages {
				ok = ok && !harmed[id]
			}
			if ok {
				out[first] = true
			}
		}
		return out
	}
	return out
}
