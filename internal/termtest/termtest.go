
// Press presses a key that tmux has a name for, such as C-c.
func (s *Screen) Press(key string) { s.tmux("send-keys", key) }
