'use strict';
// Lists of class "searchable" get the admin's own search box.
django.jQuery(function($) {
    $('select.searchable').each(function() {
        const label = document.querySelector(`label[for="${this.id}"]`);
        label.id = `${this.id}_label`;
        const shown = $(this).select2({theme: 'admin-autocomplete'}).data('select2').$selection;
        // What select2 leaves out for screen readers.
        shown.attr('aria-labelledby', `${label.id} ${shown.attr('aria-labelledby')}`);
        $(this).on('select2:open', () => {
            shown.attr('aria-controls', `select2-${this.id}-results`);
            const search = document.querySelector('.select2-container--open .select2-search__field');
            search.setAttribute('aria-labelledby', label.id);
            search.focus();
        });
    });
});
