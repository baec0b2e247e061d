package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"
)

// varstoredBlob is what XenServer's database has of variables.
func varstoredBlob(vars []Variable) []byte {
	le := binary.LittleEndian
	var body []byte
	for _, v := range vars {
		name := utf16.Encode([]rune(v.Name))
		body = le.AppendUint64(body, uint64(2*len(name)))
		for _, u := range name {
			body = le.AppendUint16(body, u)
		}
		body = le.AppendUint64(body, uint64(len(v.Data)))
		body = append(body, v.Data...)
		body = append(body, v.GUID[:]...)
		body = le.AppendUint32(body, v.Attributes)
		body = append(body, v.Time[:]...)
		body = append(body, make([]byte, 32)...)
	}
	b := le.AppendUint32([]byte("VARS"), 1)
	b = le.AppendUint64(b, uint64(len(vars)))
	b = le.AppendUint64(b, uint64(len(body)))
	return append(b, body...)
}

// emptyStore is a file as OVMF's VARS.fd is, with room for so many bytes of variables.
func emptyStore(room int) []byte {
	file := bytes.Repeat([]byte{0xff}, 72+storeHeader+room+100)
	copy(file[fvMarkAt:], fvMark)
	binary.LittleEndian.PutUint16(file[fvHeaderSize:], 72)
	copy(file[72:], storeGUID())
	binary.LittleEndian.PutUint32(file[72+storeSize:], uint32(storeHeader+room))
	file[72+storeFormat], file[72+storeState] = formatted, healthy
	return file
}

func someVariables() []Variable {
	return []Variable{
		{Name: "BootOrder", GUID: globalGUID(), Attributes: 7, Data: []byte{1, 0, 0, 0}},
		{Name: "Boot0001", GUID: globalGUID(), Attributes: 7, Data: []byte("loader")},
		{Name: "ConOut", GUID: globalGUID(), Attributes: 7, Data: []byte("a serial line of another machine")},
		{Name: "BootNext", GUID: globalGUID(), Attributes: 7, Data: []byte{2, 0}},
		{Name: "MokList", GUID: shimGUID(), Attributes: 3, Data: []byte("key")},
		{Name: "MokList", Attributes: 3, Data: []byte("of somebody else")},
	}
}

// What a guest boots by comes into the file of OVMF's variables; what is about the machine that
// it had does not.
func TestVariablesOfXenServerBecomeThoseOfOVMF(t *testing.T) {
	vars, err := Varstored(varstoredBlob(someVariables()))
	if err != nil || len(vars) != 6 {
		t.Fatalf("%v %v", vars, err)
	}
	kept := ForBoot(vars)
	if len(kept) != 3 || kept[0].Name != "BootOrder" || kept[1].Name != "Boot0001" || kept[2].Name != "MokList" {
		t.Fatalf("%+v", kept)
	}
	template := emptyStore(400)
	file, err := WithVariables(template, kept)
	if err != nil {
		t.Fatal(err)
	}
	from, to, err := store(file)
	if err != nil {
		t.Fatal(err)
	}
	at, err := end(file, from, to)
	if err != nil || at <= from || !bytes.Equal(file[at:], template[at:]) || !bytes.Equal(file[:from], template[:from]) {
		t.Errorf("%d %v", at, err)
	}
	again, err := WithVariables(file, kept[:1])
	if err != nil || !bytes.Equal(again[:at], file[:at]) {
		t.Errorf("what is there is written over: %v", err)
	}
	if _, err := WithVariables(emptyStore(150), kept); err == nil {
		t.Error("there is no room")
	}
}

func TestVariablesThatAreDamaged(t *testing.T) {
	whole := varstoredBlob(someVariables())
	for n := range len(whole) {
		if _, err := Varstored(whole[:n]); !errors.Is(err, errVariables) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	many := bytes.Clone(whole)
	binary.LittleEndian.PutUint64(many[8:], 1<<60)
	if _, err := Varstored(many); !errors.Is(err, errVariables) {
		t.Error(err)
	}
	for _, file := range [][]byte{nil, make([]byte, 1000), emptyStore(400)[:90]} {
		if _, err := WithVariables(file, nil); !errors.Is(err, errStore) {
			t.Error(err)
		}
	}
}

func TestUEFIIsFoundByWhatTheHostSays(t *testing.T) {
	own, shipped := t.TempDir(), t.TempDir()
	write := func(dir, name, features string) {
		text := `{"interface-types": ["uefi"], "mapping": {"device": "flash", "executable": {"filename": "/` + name + `", "format": "raw"}, "nvram-template": {"filename": "/vars", "format": "raw"}},
		"targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}], "features": [` + features + `]}`
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(shipped, "40.json", `"secure-boot", "requires-smm"`)
	write(shipped, "60.json", "")
	write(shipped, "50.json", "")
	write(own, "50.json", `"requires-smm"`)
	code, template, err := findUEFI([]string{own, shipped}, "pc-i440fx-9.0")
	if err != nil || code != "/60.json" || template != "/vars" {
		t.Errorf("%s %s %v", code, template, err)
	}
	if _, _, err := findUEFI([]string{own, shipped}, "pc-q35-9.0"); !errors.Is(err, ErrNoUEFI) {
		t.Error(err)
	}
}
