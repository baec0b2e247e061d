package formats

import (
	"fmt"
	"slices"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/chain"
)

// roomNames are the kinds of room by the names that qemu-img's preallocation has for them.
func roomNames() []string {
	return []string{chain.RoomNone: "off", chain.RoomMetadata: "metadata", chain.RoomFalloc: "falloc", chain.RoomFull: "full"}
}

// Room is the kind of room of that name, if images of the format can have it.
func (f *Format) Room(name string) (chain.Room, error) {
	names := roomNames()
	known := names[:1:1]
	for _, r := range f.Rooms {
		known = append(known, names[r])
	}
	if !slices.Contains(known, name) {
		return chain.RoomNone, fmt.Errorf("images of format %s have no such preallocation; they have: %s", f.Name, strings.Join(known, ", "))
	}
	return chain.Room(slices.Index(names, name)), nil
}

// RoomName is what qemu-img calls that kind of room.
func RoomName(r chain.Room) string { return roomNames()[r] }

// roomText is what qemu-img create writes of it.
func roomText(n New) string {
	if n.Room == chain.RoomNone {
		return ""
	}
	return " preallocation=" + RoomName(n.Room)
}
