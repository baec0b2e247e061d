// Package lvm2 reads volume groups of LVM2 from their physical volumes, without the device
// mapper and without LVM: from devices, or from copies of them in files. It only ever reads.
//
// The layout is that of LVM2's lib/format_text/layout.h and of its text metadata
// (lib/format_text/import_vsn1.c): a label in one of the first four sectors leads to the
// physical volume's header, that to a metadata area, whose header leads into a ring of texts,
// of which the newest counts. Logical volumes of linear and striped segments can be read;
// those of other kinds (mirrors, thin pools, snapshots) are listed, and refuse to be read.
//
//	pv, err := lvm2.Open("pv.img", file, size)
//	groups, err := lvm2.Groups(pv)
//	for _, lv := range groups[0].Volumes {
//		data := make([]byte, 512)
//		_, err := lv.ReadAt(data, 0)
//	}
package lvm2
