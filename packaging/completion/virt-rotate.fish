# Completion of virt-rotate for fish. virt-rotate itself tells what the word under the cursor
# may become: one candidate a line, a tab and what it is; a slash stands for names of files.

function __virt_rotate_complete
    set -l typed (commandline -opc)
    set -l word (commandline -ct)
    set -l program $typed[1]
    set -e typed[1]
    set -l before (string match -r -- '^-[^=]*=' $word)
    for line in ($program $typed (string unescape -- $word; or echo $word) --generate-bash-completion 2>/dev/null)
        if string match -q -- (printf '/\t')'*' $line
            __fish_complete_path (string replace -r -- '^-[^=]*=' '' $word)
        else
            echo "$before$line"
        end
    end
end

complete -c virt-rotate -f -a '(__virt_rotate_complete)'
