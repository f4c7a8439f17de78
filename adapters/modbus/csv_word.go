package modbus

import (
	"fmt"
	"strings"
)

// squashWord drops what people write differently.
func squashWord(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" _-()./", r) {
			return -1
		}
		return r
	}, strings.ToLower(s))
}

// tableWord reads the name of a table.
func tableWord(s string) (table string, ok bool) {
	switch squashWord(s) {
	case "coil", "coils", "co", "discreteoutput", "discreteoutputs", "0x", "0xxxx", "0xxxxx":
		return "coil", true
	case "discrete", "discreteinput", "discreteinputs", "di", "inputstatus", "1x", "1xxxx", "1xxxxx":
		return "discrete", true
	case "holding", "holdingregister", "holdingregisters", "hr", "hold", "4x", "4xxxx", "4xxxxx":
		return "holding", true
	case "input", "inputregister", "inputregisters", "ir", "3x", "3xxxx", "3xxxxx":
		return "input", true
	case "fifo", "fifoqueue":
		return "fifo", true
	}
	return "", false
}

// functionWord reads the function that reads a table: 3, 03, FC3, 0x03.
func functionWord(s string) (table string, ok bool) {
	s = strings.TrimPrefix(squashWord(s), "fc")
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		s = strings.TrimLeft(hex, "0")
		if s == "18" {
			s = "24"
		}
	}
	switch strings.TrimLeft(s, "0") {
	case "1":
		return "coil", true
	case "2":
		return "discrete", true
	case "3":
		return "holding", true
	case "4":
		return "input", true
	case "24":
		return "fifo", true
	}
	return "", false
}

// typeWord reads a type as lists of makers name it.
func typeWord(s string) (name string, ok bool) {
	w := squashWord(s)
	if _, ok := typeOf(w); ok {
		return w, true
	}
	switch w {
	case "boolean", "bit":
		return "bool", true
	case "uint", "u16", "word", "ushort", "unsigned16", "unsigned", "unsignedint16", "unsignedshort", "16bitunsigned", "unsigned16bit":
		return "uint16", true
	case "int", "i16", "s16", "sint16", "short", "signed", "signed16", "signedint16", "16bitsigned", "signed16bit":
		return "int16", true
	case "udint", "u32", "dword", "unsigned32", "unsignedint32", "32bitunsigned", "unsigned32bit":
		return "uint32", true
	case "dint", "i32", "s32", "sint32", "signed32", "signedint32", "32bitsigned", "signed32bit":
		return "int32", true
	case "ulint", "u64", "lword", "unsigned64", "unsignedint64":
		return "uint64", true
	case "lint", "i64", "s64", "sint64", "signed64", "signedint64":
		return "int64", true
	case "half", "f16":
		return "float16", true
	case "float", "real", "single", "f32", "ieee754", "floatingpoint", "real32", "ieeefloat":
		return "float32", true
	case "double", "lreal", "f64", "real64":
		return "float64", true
	case "bcd":
		return "bcd16", true
	case "text", "ascii", "char", "utf8", "str":
		return "string", true
	case "raw", "octets":
		return "bytes", true
	case "bitfield", "bitfield16", "flags", "bitmap":
		return "bits16", true
	case "bitfield32":
		return "bits32", true
	}
	return "", false
}

// orderWord reads an order of bytes. Little-endian is not among the words: some
// mean CDAB by it and some DCBA.
func orderWord(s string) (order string, ok bool) {
	switch squashWord(s) {
	case "abcd", "1234", "abcdefgh", "ab", "bigendian", "big", "be":
		return "ABCD", true
	case "cdab", "3412", "ghefcdab", "wordswap", "wordswapped":
		return "CDAB", true
	case "badc", "2143", "badcfehg", "ba", "byteswap", "byteswapped":
		return "BADC", true
	case "dcba", "4321", "hgfedcba":
		return "DCBA", true
	}
	return "", false
}

// yes reads yes or no.
func yes(s string) (v, ok bool) {
	switch strings.ToLower(s) {
	case "yes", "y", "true", "1", "x":
		return true, true
	case "no", "n", "false", "0":
		return false, true
	}
	return false, false
}

// readable reports whether the rights of a row let it be read. One that can
// only be written is passed over.
func (l *registerList) readable(c listCell) bool {
	switch squashWord(c.text) {
	case "r", "ro", "rw", "wr", "read", "readonly", "readwrite", "rwp", "r+w":
		return true
	case "w", "wo", "write", "writeonly":
		return false
	}
	l.fault(c, fmt.Sprintf("access: %q is not known", c.text), "R, RW or W; what can only be written is passed over")
	return true
}
