# Completion of virt-rotate for bash, with the functions of the package bash-completion.
# virt-rotate itself tells what the word under the cursor may become: one candidate a line,
# a tab and what it is; a line with a slash stands for names of files.

_virt_rotate() {
	local cur words cword line text word
	_get_comp_words_by_ref -n '=:' cur words cword || return
	# words[0] is as it was typed: an alias or a path of virt-rotate's is right, too.
	local program=${words[0]/#\~/$HOME}
	COMPREPLY=()
	local typed=()
	# What was typed with quotes or backslashes is handed over without them.
	for word in "${words[@]:1:cword-1}" "$cur"; do
		_virt_rotate_unquote "$word"
		typed+=("$text")
	done
	# What bash replaces begins behind the last = or : that it breaks words at.
	_virt_rotate_unquote "$cur"
	local whole=$text cut=
	case $whole in
	-*=*) whole=${whole#*=} ;;
	esac
	if [[ $whole == *:* && $COMP_WORDBREAKS == *:* ]]; then
		cut=${whole%"${whole##*:}"}
	fi
	while IFS= read -r line; do
		text=${line%%$'\t'*}
		if [[ $text == / ]]; then
			compopt -o filenames 2>/dev/null
			while IFS= read -r line; do
				COMPREPLY+=("$line")
			done < <(compgen -f -- "$whole")
			continue
		fi
		printf -v text %q "${text#"$cut"}"
		COMPREPLY+=("$text")
	done < <("$program" "${typed[@]}" --generate-bash-completion 2>/dev/null)
}

# Removes what quotes a word, into $text. Nothing in it is expanded or run.
_virt_rotate_unquote() {
	text=$1
	case $text in
	\'*) text=${text#\'} text=${text%\'} ;;
	\"*) text=${text#\"} text=${text%\"} ;;
	*) text=${text//\\/} ;;
	esac
}

complete -F _virt_rotate virt-rotate
