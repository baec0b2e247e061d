// Package rotate keeps the snapshots of one host's guests in order: it looks
// at the host, decides, and carries the decision out.
//
// What always holds:
//
//   - Decisions are pure: Decide sees a World, a rule and a time, nothing else.
//   - Nothing is resumed from memory. A run that was interrupted is finished by
//     the next, which decides anew from what it sees. What could not be seen is
//     in the intent journal before the first step that needs it.
//   - A snapshot goes only if virt-rotate took it. A layer is changed only if
//     nobody outside the domain's own rotation needs it: no other chain, no
//     foreign snapshot, no image in the directories concerned.
//   - A file is deleted only when live XML, inactive XML and image headers agree
//     that the merge happened, nothing refers to the file, and the intent names
//     exactly its device and inode.
package rotate
