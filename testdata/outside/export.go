package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"fmt"
)

// exportOf is an export of a VM with one disk, as xapi writes it.
func exportOf(disk []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			panic(err)
		}
		if _, err := w.Write(data); err != nil {
			panic(err)
		}
	}
	add("ova.xml", descriptor(len(disk)))
	const chunk = 1 << 20
	for i := 0; i*chunk < len(disk); i++ {
		name := fmt.Sprintf("Ref:4/%08d", i)
		data := disk[i*chunk:][:chunk]
		add(name, data)
		add(name+".checksum", fmt.Appendf(nil, "%x", sha1.Sum(data)))
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func descriptor(size int) []byte {
	field := func(name, value string) string {
		return fmt.Sprintf("<member><name>%s</name><value>%s</value></member>", name, value)
	}
	object := func(class, id, fields string) string {
		return "<value><struct>" + field("class", class) + field("id", id) + field("snapshot", "<struct>"+fields+"</struct>") + "</struct></value>"
	}
	objects := object("VM", "Ref:0", field("name_label", "web")) +
		object("VDI", "Ref:4", field("uuid", "4d1b5a0e-7c3f-4f51-9f0e-6a1d2b3c4d5e")+field("name_label", "root")+field("virtual_size", fmt.Sprint(size))+field("SR", "Ref:1000")) +
		object("VBD", "Ref:500", field("VDI", "Ref:4")+field("type", "Disk")+field("userdevice", "0")) +
		object("SR", "Ref:1000", field("content_type", "user"))
	return []byte("<?xml version='1.0'?><value><struct>" + field("version", "<struct>"+field("export_vsn", "2")+"</struct>") +
		field("objects", "<array><data>"+objects+"</data></array>") + "</struct></value>")
}
