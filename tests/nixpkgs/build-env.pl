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

sub merge {
    my ($from, $to) = @_;
    if (!-l $to && !-e $to) {
        symlink $from, $to or die "$to: $!\n";
    } elsif (-d $from && -d $to) {
        if (-l $to) {
            my $first = readlink $to;
            unlink $to;
            mkdir $to;
            merge("$first/$_", "$to/$_") for children($first);
        }
        merge("$from/$_", "$to/$_") for children($from);
    } elsif (!$ENV{ignoreCollisions}
        && !($ENV{checkCollisionContents} && -f $from && -f $to && -x $from eq -x $to && compare($from, $to) == 0))
    {
        my $other = readlink($to) // $to;
        die "error: collision between `$from' and `$other'\n";
    }
}

for my $part (split ' ', $ENV{pathsToLink}) {
    $part = '' if $part eq '/';
    make_path "$root$part";
    for my $package (split ' ', $ENV{paths}) {
        next unless -d "$package$part";
        merge("$package$part/$_", "$root$part/$_") for grep { $_ ne 'nix-support' } children("$package$part");
    }
}
