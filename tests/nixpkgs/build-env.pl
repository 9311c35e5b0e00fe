# Makes one tree of symbolic links: a folder that only one package has is one link to it, below what was asked for.
use strict;
use warnings;
use File::Compare 'compare';
use File::Path 'make_path';

my $root = "$ENV{out}$ENV{extraPrefix}";

sub children {
    my ($folder) = @_;
    opendir my $entries, $folder or die "$folder: $!\n";
    return sort grep { !/^\.\.?$/ } readdir $entries;
}

# A path may be a link already, of a package whose priority is then in here: the smaller number wins.
my %priority_of;

sub merge {
    my ($from, $to, $priority) = @_;
    my $other = readlink $to;
    my $is_file = defined $other && !-d $to;
    if (!-l $to && !-e $to) {
        symlink $from, $to or die "$to: $!\n";
        $priority_of{$to} = $priority;
    } elsif ($is_file && $priority != $priority_of{$to}) {
        return if $priority > $priority_of{$to};
        unlink $to;
        merge($from, $to, $priority);
    } elsif (-d $from && -d $to) {
        if (defined $other) {
            unlink $to;
            mkdir $to;
            merge("$other/$_", "$to/$_", $priority_of{$to}) for children($other);
        }
        merge("$from/$_", "$to/$_", $priority) for children($from);
    } elsif (!$ENV{ignoreCollisions}
        && !($ENV{checkCollisionContents} && -f $from && -f $to && -x $from eq -x $to && compare($from, $to) == 0))
    {
        die sprintf "error: collision between `%s' and `%s'\n", $from, $other // $to;
    }
}

for my $part (split ' ', $ENV{pathsToLink}) {
    $part = '' if $part eq '/';
    make_path "$root$part";
    my @priorities = split ' ', $ENV{priorities};
    for my $package (split ' ', $ENV{paths}) {
        my $priority = shift @priorities;
        next unless -d "$package$part";
        for my $name (children("$package$part")) {
            merge("$package$part/$name", "$root$part/$name", $priority) unless $name eq 'nix-support';
        }
    }
}
