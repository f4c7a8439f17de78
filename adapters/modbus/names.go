package modbus

import "strings"

// saneName makes a name of a text: what a name may not hold becomes _, runs of
// that become one, accents of Latin letters are taken off. It is "" when
// nothing is left.
func saneName(s string) string {
	if sane.MatchString(s) {
		return s
	}
	plain := strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "Ä", "Ae", "Ö", "Oe", "Ü", "Ue", "ß", "ss", "æ", "ae", "Æ", "Ae",
		"ø", "oe", "Ø", "Oe", "å", "aa", "Å", "Aa", "é", "e", "è", "e", "ê", "e", "É", "E", "à", "a", "á", "a", "â", "a", "ã", "a",
		"ç", "c", "í", "i", "î", "i", "ñ", "n", "ó", "o", "ô", "o", "õ", "o", "ú", "u", "û", "u", "%", "percent", "°", "deg").Replace(s)
	var b strings.Builder
	gap := false
	for _, r := range plain {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_'
		if !ok {
			gap = true
			continue
		}
		if gap && b.Len() > 0 && r != '_' {
			b.WriteByte('_')
		}
		gap = false
		b.WriteRune(r)
	}
	name := b.String()
	return strings.TrimRight(name[:min(len(name), 64)], "_-.")
}

// modicon reads a register number as old manuals write it: the first digit is
// the table, the rest counts from 1. The digits count: 40001 and 400001 are
// both holding register 0. Coils lose their leading zeros in spreadsheets, so
// that up to four digits are a coil.
func modicon(s string) (table string, address int, ok bool) {
	if s == "" || len(s) > 6 {
		return "", 0, false
	}
	digit, n := byte('0'), 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return "", 0, false
		}
		if len(s) >= 5 && i == 0 {
			digit = s[0]
			continue
		}
		n = 10*n + int(s[i]-'0')
	}
	tables := map[byte]string{'0': "coil", '1': "discrete", '3': "input", '4': "holding"}
	table, ok = tables[digit]
	if !ok || n < 1 || n > maxAddress+1 {
		return "", 0, false
	}
	return table, n - 1, true
}
