"Sphinx settings of the site: nothing is executed, nothing is fetched by a page"
project, author = 'medfolio', 'The medfolio authors'
extensions = ['myst_nb', 'sphinx_copybutton']
exclude_patterns = ['_extra']
html_extra_path, html_static_path = ['_extra'], ['_static']
html_css_files, html_favicon = ['custom.css'], '_static/favicon.svg'

nb_execution_mode = 'off'
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_render_markdown_format = 'myst'
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_block']
myst_heading_anchors = 4
suppress_warnings = ['mystnb.unknown_mime_type', 'myst.header']

html_theme, html_title, html_show_copyright = 'furo', 'medfolio', False
html_show_sphinx = html_copy_source = html_show_sourcelink = False
pygments_style, pygments_dark_style = 'github-light', 'github-dark'
copybutton_selector = 'div.cell_input pre, div.highlight-bash pre, div.highlight-sh pre'
BLUE, SKY = '#14567a', '#7cc3ea'
brand = lambda c: {f'color-brand-{k}': c for k in ('primary', 'content', 'visited')}
html_theme_options = dict(
    top_of_page_buttons=[], light_css_variables=brand(BLUE),
    dark_css_variables=brand(SKY) | {'color-background-primary': '#12161b',
                                     'color-background-secondary': '#171c22'})
html_math_renderer = 'mathml'


def mathml(block):
    "Maths as MathML, written at build time: no script, no font, no network"
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml
    def visit(self, node):
        out = tex2mathml(node.astext(), as_block=block)
        self.body.append(f'<div class="math">{out}</div>' if block else out)
        raise nodes.SkipNode
    return visit, None


def setup(app):
    app.add_html_math_renderer('mathml', inline_renderers=mathml(False),
                               block_renderers=mathml(True))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
